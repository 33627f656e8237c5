"""A station: cameras, rules, events and ways out, put together from one file.

config.py     what stands in station.toml, strictly
secrets.py    passwords and tokens, from files or the environment
station.py    everything that runs beside the scorer
decide.py     the sink that steps the rules and keeps events
pulse.py      the thread that lets time pass: silence, acknowledgements, outputs
ways_out.py   answers and events to a broker, events to webhooks
watchdog.py   systemd hears from us while frames are scored
"""
