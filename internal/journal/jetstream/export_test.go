package jetstream

// BytesReceived returns how many bytes the log's connection has received.
func (l *Log) BytesReceived() uint64 { return l.nc.Stats().InBytes }
