"""A server of torch's TCPStore protocol: `wire` reads, `table` knows, `answers` joins the two, `server` serves many."""
