"""Routes and wire types -> the OpenAPI 3.1 document of the API, and a page that shows it.

Knows the request and the responses of every route; handles none of them.
"""
