"""How good is the merged model: aggregators, attacks, hospitals, all trained for real."""
