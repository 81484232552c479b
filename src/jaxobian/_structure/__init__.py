"""What linear equations do: to axes (ties along which alone an output can depend on an input), and to elements."""

from ._axes import Structure as Structure
from ._axes import influence as influence
from ._axes import structure as structure
from ._elements import elements as elements
from ._fixed import fixed as fixed
from ._pattern import Pattern as Pattern
from ._pattern import rows_of as rows_of
from ._rows import FULL as FULL
from ._rows import Full as Full
from ._rows import csr as csr
from ._rows import merged as merged
from ._rows import shape_of as shape_of
from ._rows import taken as taken
from ._ties import Digit as Digit
from ._ties import Line as Line
from ._ties import Relation as Relation
from ._ties import compose as compose
from ._ties import join as join
from ._ties import transposed as transposed
from ._ties import within as within
