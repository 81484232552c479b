"""Which axes of a result can depend on which of an operand only along a diagonal."""
