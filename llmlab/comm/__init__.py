"""How ranks run and talk: groups, collectives, the simulator and the processes."""
