"""Decoding photos where a decoder that fails takes nothing with it: in processes of their own.

pool.py     borrows a process, notices that it has died or hangs, starts another
child.py    what runs there: limits of memory and time, one photo after the other
answer.py   what the two say to each other
"""
