"""Measures a served model: inputs of real text, closed loop, the server's own times beside the client's."""
