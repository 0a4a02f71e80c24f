"""The registry as an ASGI application, and the server that runs it (extra ``serve``: Starlette, uvicorn). It carries
requests and bodies between sockets and ``serve.api``. Must not know the store, nor what a request means."""
