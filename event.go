package esh3ar

// Event tells what became of one message: one transition, with what is needed to route the news.
type Event struct {
	Message ID
	Client  string
	To      string
	// TraceParent is the message's, "" without one.
	TraceParent string
	Transition
}
