"""FedMed against Flower: the same payload, the same hosts, the same kills."""
