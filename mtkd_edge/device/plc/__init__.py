"""Answers for a controller that asks: registers of Modbus-TCP and nodes of OPC UA, renewed ten times a second.

    registers.py       the answers of all lines as a table of 16-bit words
    modbus.py          a Modbus-TCP server on that table
    opcua_asyncua.py   an OPC UA server (extra `opcua`)
    gpio_gpiod.py      wires, in and out (extra `gpio`)

All of it fails safe: a heartbeat that stops, a valid bit, an answer whose zero means invalid.
"""
