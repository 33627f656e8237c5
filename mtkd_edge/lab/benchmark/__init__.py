"""The paper's tables, run again: categories x seeds x variants, each cell once, with the published column beside it."""
