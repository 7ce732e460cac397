"""Call a service elsewhere, or deploy one on AWS, from the command line. The service does not import it."""
