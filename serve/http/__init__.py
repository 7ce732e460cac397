"""The HTTP edge: routes, bodies, statuses, and the life of the process. Only this package knows the web."""
