"""After the boot: was it healthy, which slot came up, what must be remembered about it.

In: facts about this boot and what was armed before it. Out: a verdict. It never marks a slot itself.
"""
