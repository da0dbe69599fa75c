"""Every rule: what is due, whether a copy is good, how a transfer moves on. The only room that reads and writes rows.

Plain functions over rows, and over stores, movers and peers that they are handed.
"""
