"""The linear program as a graph of variables: where it is narrow, and where its equations want another mode."""

from ._cuts import Cut as Cut
from ._cuts import chain as chain
from ._cuts import narrow_places as narrow_places
from ._cuts import narrowest as narrowest
from ._cuts import path_splits as path_splits
from ._flow import Graph as Graph
from ._flow import minimum_cuts as minimum_cuts
from ._incidence import Ends as Ends
from ._incidence import Term as Term
from ._incidence import Terms as Terms
from ._incidence import ends as ends
from ._incidence import up_to_sign as up_to_sign
from ._stages import stages as stages
