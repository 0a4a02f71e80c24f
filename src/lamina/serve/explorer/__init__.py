"""The explorer: what people see of repositories and images in a browser, as JSON, and the files of the page.

It reshapes what ``insight`` and ``union`` return, and reads images through ``Repositories`` or a ``Reader``. It must
not know HTTP servers: ``Explorer.answer`` is a function from a request to an answer. It must not apply rules of the
union, and it writes nothing but its own cache directory."""
