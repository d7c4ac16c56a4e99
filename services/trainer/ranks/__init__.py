"""A trainer of several processes, the ranks, which share the work of every step.

    group.py      what ranks tell each other in a step; `Alone` is a group of one          (port)
    processes.py  the group that there is: process groups of torch                         (out)
    leading.py    rank 0 says what is done next, the others follow                         (core)
    launching.py  the agent that starts the ranks of a trainer, and ends them together     (edge)

What always holds: rank 0 alone has the bus, the lease and HTTP, and decides; all ranks do the same things in the same
order, so that whoever waits for the others is waited for; and a rank that fails takes the whole group with it, which
then begins again at the last checkpoint. A trainer of one rank loads none of it but the port.
"""
