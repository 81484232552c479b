"""What is wanted of J, one file each: how large it is, whether zeros are written, and how a block of it is made."""

from ._bcoo import Bcoo as Bcoo
from ._compressed import Compressed as Compressed
from ._dense import Dense as Dense
from ._output import Block as Block
from ._output import Output as Output

OUTPUTS: dict[str, Output] = {"dense": Dense(), "bcoo": Bcoo()}
