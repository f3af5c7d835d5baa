"""Autobahn's own echo server, on the WebSocket address given (`ws://127.0.0.1:9001`). Python 2.7.

`wstest --mode testeeserver` is the same, but refuses a handshake whose Host names another port than its own, as one
that came through a gateway does.
"""

import sys

from autobahntestsuite.testee import TesteeServerFactory
from autobahn.twisted.websocket import listenWS
from twisted.internet import reactor

factory = TesteeServerFactory(sys.argv[1])
factory.externalPort = None
listenWS(factory)
reactor.run()
