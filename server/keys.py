"""The typed places where the application and a request keep what belongs to them."""

from aiohttp import web

from lorax_serve.server.admission import Admission
from lorax_serve.server.chat_prompts import ChatPrompts
from lorax_serve.server.documentation import Documentation
from lorax_serve.server.places import Places
from lorax_serve.server.service import Service

SERVICE = web.AppKey("service", Service)
ADMISSION = web.AppKey("admission", Admission)
CHAT_PROMPTS = web.AppKey("chat_prompts", ChatPrompts)
DOCUMENTATION = web.AppKey("documentation", Documentation)
TEXT_PLACES = web.AppKey("text_places", Places)  # of requests that need no engine

REQUEST_ID = web.RequestKey("request_id", str)
RECEIVED_AT = web.RequestKey("received_at", float)  # of time.monotonic
