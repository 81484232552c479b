"""Linear equations replaced by faster equals: one file a family. Whether one is faster is for the cost model to say."""

from ._batch_major import batch_major as batch_major
from ._batch_major import pass_axis as pass_axis
from ._batch_major import supports_batch_major as supports_batch_major
from ._hoisting import compact as compact
from ._hoisting import hoist as hoist
from ._hoisting import shrunk as shrunk
from ._outer import has_all_axes as has_all_axes
from ._outer import product_and_sum as product_and_sum
from ._patches import convolved as convolved
from ._patches import has_patches as has_patches
from ._patches import patches as patches
from ._rewrite import Around as Around
from ._rewrite import Rewrite as Rewrite
from ._rewrite import linear_in as linear_in
from ._rewrite import rewritten as rewritten
from ._rewrite import side_by_side as side_by_side
from ._rewrite import written as written
from ._skinny import skinny_matmuls as skinny_matmuls
from ._skinny import weights_first as weights_first
from ._table import offers as offers
