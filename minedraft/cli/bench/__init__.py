"""`minedraft bench`: a closed loop of requests, and what it measured."""
