"""What a program costs: operations counted (`_count`), and the constants that turn them into seconds (`_machine`)."""

from ._count import ASSUMED_STEPS as ASSUMED_STEPS
from ._count import PassWork as PassWork
from ._count import count as count
from ._count import nbytes as nbytes
from ._count import not_understood as not_understood
from ._count import pass_work as pass_work
from ._count import repeated as repeated
from ._count import turned as turned
from ._machine import KINDS as KINDS
from ._machine import Cost as Cost
from ._machine import Machine as Machine
from ._machine import Work as Work
from ._machine import machine as machine
