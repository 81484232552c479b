"""Where a linear program is narrow, and where its ends only repeat and sum."""
