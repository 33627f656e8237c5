"""Events on their way out: each sink sends what the store holds, in order, at least once, and knows how far it came.

sender.py      the thread of one sink: what is next, tried until it is delivered
channel.py     what a way out is, and how it fails
message.py     an event as the bytes that leave the machine
webhook.py     HTTP POST;  mqtt_paho.py  MQTT
"""
