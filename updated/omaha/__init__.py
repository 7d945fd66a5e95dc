"""Asks an Omaha server what to run, and understands what servers of all kinds answer.

In: facts about this host, an answer's bytes. Out: an offer, "nothing new", or why the server says no. What an answer
says is a hint: nothing in it is trusted, and everything in it is bounded and checked for shape here.
"""
