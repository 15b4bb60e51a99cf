package store

// Step names one step of the transaction that Commit runs. Backends announce each before they take
// it, so that a test can end the world exactly there and look at what is left.
type Step string

// The steps, in order. A step with nothing to do is announced all the same, except that StepCommitted
// comes only when the database has confirmed.
const (
	StepBegin     Step = "begin"
	StepOwner     Step = "owner"     // the epoch is read and held
	StepMessages  Step = "messages"  // message rows with their queue state
	StepKeys      Step = "keys"      // idempotency keys
	StepEvents    Step = "events"    // status events
	StepRejects   Step = "rejects"   // raw dead letters
	StepPositions Step = "positions" // the checkpoint and the event counter
	StepCommit    Step = "commit"
	StepCommitted Step = "committed"
)

// Steps returns all steps in order.
func Steps() []Step {
	return []Step{StepBegin, StepOwner, StepMessages, StepKeys, StepEvents, StepRejects, StepPositions, StepCommit, StepCommitted}
}
