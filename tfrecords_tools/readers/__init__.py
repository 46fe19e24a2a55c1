"""Where rows come from: tables, trees, tars, other people's shards."""
