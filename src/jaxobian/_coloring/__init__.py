"""Pattern -> Coloring: which columns can share a tangent, which rows a cotangent. NumPy and SciPy alone.

    columns        no two of a color have a nonzero in the same row: J's nonzeros are read off the pushed sums
    rows           the same of the transpose
    both           the few dense rows are pulled, all else is pushed (or the few dense columns pushed, all else pulled)
    star           of a symmetric J: an element may be read off its mirror image, too
    diagonal       no two of a color have a nonzero in each other's rows: the diagonal alone is read off
    triangular     the diagonal blocks of a J whose rows and columns are put in order: all that its determinant needs

Greedy coloring in several orders, then iterated greedy: coloring again, class by class, never takes more colors and
often fewer (Culberson, 1992). Of arrays, lattices are tried first: colors that repeat along each axis, as those of
stencils do. See Gebremedhin, Manne and Pothen, What color is your Jacobian? (SIAM Review 47, 2005).
"""

from ._both import bicolored as bicolored
from ._coloring import Coloring as Coloring
from ._coloring import color_columns as color_columns
from ._coloring import color_rows as color_rows
from ._coloring import lower_bounds as lower_bounds
from ._diagonal import color_diagonal as color_diagonal
from ._matrices import nonzeros as nonzeros
from ._star import star as star
from ._triangular import Triangular as Triangular
from ._triangular import block_triangular as block_triangular
from ._triangular import permutation_sign as permutation_sign
