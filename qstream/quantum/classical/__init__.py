"""Classical solvers, one algorithm a file: the incumbent, the twin and the yardstick of every quantum answer."""
