"""What is wanted of J, one file each: its size, what becomes of a chunk of passes, how it is made of what they leave.

J itself keeps what passes bring back and puts it in its place; something of J is summed up chunk by chunk.
"""

from ._bcoo import Bcoo as Bcoo
from ._compressed import Compressed as Compressed
from ._dense import Dense as Dense
from ._diagonal import Diagonal as Diagonal
from ._diagonal import Trace as Trace
from ._gram import Gram as Gram
from ._output import Block as Block
from ._output import Chunk as Chunk
from ._output import Output as Output
from ._output import Reduction as Reduction
from ._output import Results as Results
from ._output import Rows as Rows
from ._placed import DenseBlock as DenseBlock
from ._placed import Kept as Kept
from ._placed import Whole as Whole
from ._placed import placed as placed
from ._quantity import Quantity as Quantity
from ._quantity import SideName as SideName
from ._scatter import indexed as indexed
from ._scatter import scattered as scattered
from ._slogdet import Slogdet as Slogdet
from ._slogdet import SlogdetResult as SlogdetResult
from ._slogdet import nonzeros as nonzeros
from ._sparse_gram import SparseGram as SparseGram
from ._squared_norms import Over as Over
from ._squared_norms import SquaredNorms as SquaredNorms

OUTPUTS: dict[str, Output] = {"dense": Dense(), "bcoo": Bcoo(), "scipy": Bcoo()}
