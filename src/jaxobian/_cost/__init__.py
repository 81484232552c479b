"""What a program costs.

Operations are counted an equation at a time (`_equations`), by what XLA fuses (`_fusion`), and summed (`_count`); a
machine's constants turn them into seconds (`_machine`).
"""

from ._count import PassWork as PassWork
from ._count import count as count
from ._count import pass_work as pass_work
from ._count import repeated as repeated
from ._equations import ASSUMED_STEPS as ASSUMED_STEPS
from ._equations import is_elementwise as is_elementwise
from ._equations import nbytes as nbytes
from ._equations import not_understood as not_understood
from ._machine import KINDS as KINDS
from ._machine import Cost as Cost
from ._machine import Machine as Machine
from ._machine import Work as Work
from ._machine import machine as machine
