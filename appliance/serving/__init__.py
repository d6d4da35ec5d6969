"""``appliance serve``: the assistant for other programs, by OpenAI's chat completions protocol.

requests.py  what a program may ask, and what is refused
line.py      one answer at a time; a bounded number of requests wait
answers.py   guarded answers as completions, whole or in pieces
access.py    who may ask: address, host name, token
app.py       the paths; server.py runs them
"""
