// This file is empty: it lets the package have a function without a body (see lookupRaftNode).
