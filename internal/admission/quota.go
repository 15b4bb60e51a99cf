package admission

// Quota counts what a client has used of its daily quota: what the store knew when it was last told, by
// whatever node, and what was used here since. The zero Quota is ready to use.
//
// What was used is reported to the store now and then (Report, Reported). Between two reports the nodes
// do not know of each other: together they may let through more than the quota, by what they accept
// in that time.
type Quota struct {
	day    int64
	used   int64 // all that is known of
	unsent int64 // of used, what the store was not told; below 0 after a Return of what it was
	told   bool  // the store was asked on this day

	// What is unsent of an earlier day. Of two earlier days only the later one is kept: it takes a store that is
	// down for a day to lose the other, and nothing is decided by it any more.
	lateDay, late int64
}

// turn begins a new day. A day that lies back is not the clock's to give: it counts as the current one.
func (q *Quota) turn(day int64) {
	if day <= q.day {
		return
	}
	if q.unsent > 0 {
		q.lateDay, q.late = q.day, q.unsent
	}
	q.day, q.used, q.unsent, q.told = day, 0, 0, false
}

// Take counts n messages, unless that would be more than limit messages on the day.
func (q *Quota) Take(n int, limit, day int64) bool {
	q.turn(day)
	if q.used+int64(n) > limit {
		return false
	}
	q.used += int64(n)
	q.unsent += int64(n)
	return true
}

// Return takes back n messages that were counted on the day and not accepted.
func (q *Quota) Return(n int, day int64) {
	switch {
	case day == q.day:
		q.used -= int64(n)
		q.unsent -= int64(n)
	case day == q.lateDay && q.late >= int64(n):
		q.late -= int64(n)
	}
}

// Left returns how many messages are left of limit on the day.
func (q *Quota) Left(limit, day int64) int64 {
	q.turn(day)
	return max(limit-q.used, 0)
}

// Report returns what the store is to be told next, of which day. Fine is true when there is nothing to
// tell or to ask.
func (q *Quota) Report() (day, add int64, fine bool) {
	if q.late > 0 {
		return q.lateDay, q.late, false
	}
	return q.day, max(q.unsent, 0), q.day == 0 || q.told && q.unsent <= 0
}

// Reported says that the store was told what Report returned, and what the total of that day is now.
func (q *Quota) Reported(day, add, total int64) {
	switch day {
	case q.day:
		q.unsent -= add
		q.used = max(total+q.unsent, 0)
		q.told = true
	case q.lateDay:
		q.late -= add
	}
}
