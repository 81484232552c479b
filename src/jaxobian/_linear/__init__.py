"""f, args -> LinearProgram: the only room that traces, and the one that knows JAX's equations."""

from ._identity import identity as identity
from ._modes import UNKNOWN_LINE as UNKNOWN_LINE
from ._modes import Obstruction as Obstruction
from ._modes import batched as batched
from ._modes import obstructions as obstructions
from ._modes import source_line as source_line
from ._program import CALLS as CALLS
from ._program import Program as Program
from ._program import as_program as as_program
from ._program import inlined as inlined
from ._program import is_variable as is_variable
from ._program import program_of as program_of
from ._program import subprograms as subprograms
from ._program import walk as walk
from ._segment import Linear as Linear
from ._segment import active_variables as active_variables
from ._segment import closed as closed
from ._segment import pullback as pullback
from ._segment import real_avals as real_avals
from ._trace import LARGEST_INDEX as LARGEST_INDEX
from ._trace import LinearProgram as LinearProgram
from ._trace import cast_varying as cast_varying
from ._trace import is_concrete as is_concrete
from ._trace import trace as trace
from ._trace import transposed_equation as transposed_equation
