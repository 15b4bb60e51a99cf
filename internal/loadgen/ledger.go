package loadgen

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/esh3artech/esh3ar"
)

// Kind says what a Record tells.
type Kind uint8

// The kinds of Record.
const (
	// Accepted: the server answered 202.
	Accepted Kind = iota + 1
	// Refused: the server said that the message is not accepted.
	Refused
	// Unknown: the sending ended without an answer, or with outcome_unknown: both are possible.
	Unknown
	// Received: a device got the message, for the first time or again.
	Received
)

// Record is one line of a ledger. The message is named by Client, Recipient and Seq; the times are in
// nanoseconds since 1970 by the clock of the machine that runs all generators.
type Record struct {
	Kind Kind
	// Attempt is the delivery attempt that a receipt says it belongs to, capped at 255.
	Attempt uint8
	// Status is the HTTP status of an answer, 0 for none.
	Status uint16
	// Client and Recipient are their numbers in the run.
	Client, Recipient uint32
	// Seq numbers the messages of that client to that recipient from 0.
	Seq uint32
	// Device numbers the receiving devices of the run.
	Device uint32
	// ID is the tracking id; zero where none was given.
	ID esh3ar.ID
	// At is when the answer was read, or the message received.
	At int64
	// Sent is when the sending began: its first attempt. Of a receipt, when it was meant to begin.
	Sent int64
}

const recordBytes = 52

func (r *Record) put(b []byte) {
	b[0], b[1] = byte(r.Kind), r.Attempt
	binary.LittleEndian.PutUint16(b[2:], r.Status)
	binary.LittleEndian.PutUint32(b[4:], r.Client)
	binary.LittleEndian.PutUint32(b[8:], r.Recipient)
	binary.LittleEndian.PutUint32(b[12:], r.Seq)
	binary.LittleEndian.PutUint32(b[16:], r.Device)
	copy(b[20:36], r.ID[:])
	binary.LittleEndian.PutUint64(b[36:], uint64(r.At))
	binary.LittleEndian.PutUint64(b[44:], uint64(r.Sent))
}

func (r *Record) get(b []byte) error {
	*r = Record{
		Kind: Kind(b[0]), Attempt: b[1], Status: binary.LittleEndian.Uint16(b[2:]),
		Client: binary.LittleEndian.Uint32(b[4:]), Recipient: binary.LittleEndian.Uint32(b[8:]),
		Seq: binary.LittleEndian.Uint32(b[12:]), Device: binary.LittleEndian.Uint32(b[16:]),
		ID: esh3ar.ID(b[20:36]),
		At: int64(binary.LittleEndian.Uint64(b[36:])), Sent: int64(binary.LittleEndian.Uint64(b[44:])),
	}
	if r.Kind < Accepted || r.Kind > Received {
		return fmt.Errorf("a record of the unknown kind %d", r.Kind)
	}
	return nil
}

// magic begins every ledger file and names its format.
const magic = "esh3ar ledger 1\n"

// Ledger is an append-only file of Records in the order in which they were seen. It is safe for
// concurrent use.
type Ledger struct {
	mu  sync.Mutex
	f   *os.File
	w   *bufio.Writer
	err error // the first error; nothing is written after it
}

// CreateLedger makes an empty ledger file. One that exists is an error.
func CreateLedger(path string) (*Ledger, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	l := &Ledger{f: f, w: bufio.NewWriterSize(f, 256<<10)}
	if _, err := l.w.WriteString(magic); err != nil {
		f.Close()
		return nil, err
	}
	return l, nil
}

// Append adds a record. An error is kept for Close.
func (l *Ledger) Append(r *Record) {
	var b [recordBytes]byte
	r.put(b[:])
	l.mu.Lock()
	if l.err == nil {
		_, l.err = l.w.Write(b[:])
	}
	l.mu.Unlock()
}

// Close writes out what is buffered and returns the first error that the ledger met.
func (l *Ledger) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = l.w.Flush()
	}
	err := errors.Join(l.err, l.f.Close())
	l.err = errors.Join(errors.New("the ledger is closed"), err)
	return err
}

// ReadLedgers returns the records of these ledger files, file by file. A file that ends within a
// record is an error: a ledger that was not closed proves nothing.
func ReadLedgers(paths ...string) ([]Record, error) {
	var all []Record
	for _, path := range paths {
		err := readLedger(path, func(r *Record) { all = append(all, *r) })
		if err != nil {
			return nil, fmt.Errorf("ledger %s: %w", path, err)
		}
	}
	return all, nil
}

func readLedger(path string, each func(*Record)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 256<<10)
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(r, head); err != nil || string(head) != magic {
		return errors.New("not a ledger")
	}
	var b [recordBytes]byte
	for {
		switch _, err := io.ReadFull(r, b[:]); {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		var rec Record
		if err := rec.get(b[:]); err != nil {
			return err
		}
		each(&rec)
	}
}
