"""Routes and wire types -> the API's description (OpenAPI 3.1), and a page of it for people.

Knows what every route takes and answers; decides nothing of it.
"""
