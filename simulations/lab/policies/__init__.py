"""Streams compared: what people are then shown without end, by one method or another, on one generator or another.

========== ==========================================================================================
grid       what is compared: generators, methods, people
experiment the run: cells, resumed after any end, then the report
world      a panel of people over one generator, and what streams are measured by
listening  what people answer first, and the judge that heard other answers
latents    the streams of a generator that takes latents
crowds     everybody's policy under each budget, shown before any rating
toy        the streams of the flow toy, whose flow itself can be taught
shapes     what shapes are worth to somebody who loves one kind, and what streams of shapes are measured by
front      a latent policy in front of the toy's flow
tiles      clouds of points as small pictures
hacking    a learner without a guard that is caught cheating
evaluation the numbers as tables: one over every generator and method
findings   the report
cheating   its part on learners without a guard
aims       what was aimed at, and what was reached
sheets     contact sheets
========== ==========================================================================================
"""

from simulations.lab.policies.experiment import COMMAND, run
from simulations.lab.policies.grid import TOY, PolicyGrid
from simulations.lab.policies.listening import held_out_judge, session_of
from simulations.lab.policies.world import World, measured, world_of

__all__ = [
    "COMMAND",
    "TOY",
    "PolicyGrid",
    "World",
    "held_out_judge",
    "measured",
    "run",
    "session_of",
    "world_of",
]
