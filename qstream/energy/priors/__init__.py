"""The bundled priors of `default_prior`, and the script that makes them."""
