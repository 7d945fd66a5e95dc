"""lockctl: what operators ask and do. Tickets are spoken to directly, so that it works while no daemon runs."""
