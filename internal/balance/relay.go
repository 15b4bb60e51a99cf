package balance

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http/httputil"
	"strconv"
	"time"
)

// chunkRoom is room for the size line of a chunk before its data.
const chunkRoom = 16

// relay passes the body of an answer on as it comes. A body without a length goes in chunks, each as soon
// as something is there.
func (e *exchange) relay(res response) error {
	buf := make([]byte, chunkRoom+32<<10+2)
	from := io.Reader(timed{e})
	switch res.framing {
	case sized:
		for left := res.length; left > 0; {
			n, err := from.Read(buf[:min(int64(len(buf)), left)])
			if n > 0 {
				if err := e.write(time.Now(), buf[:n]); err != nil {
					return err
				}
				left -= int64(n)
			} else if err != nil {
				return err
			}
		}
		return nil
	case closing:
		return e.relayChunks(from, buf)
	}
	br := bufio.NewReaderSize(from, 4<<10)
	if err := e.relayChunks(httputil.NewChunkedReader(br), buf); err != nil {
		return err
	}
	// Trailers end with an empty line. They are not passed on: what needs them is handed over.
	for {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return err
		}
		if !bytes.HasSuffix(line, []byte("\r\n")) {
			return errMalformed
		}
		if len(line) == 2 {
			break
		}
	}
	if br.Buffered() > 0 {
		return errMalformed
	}
	return nil
}

// relayChunks passes all of from on in chunks.
func (e *exchange) relayChunks(from io.Reader, buf []byte) error {
	for {
		n, err := from.Read(buf[chunkRoom : len(buf)-2])
		if n > 0 {
			var size [chunkRoom]byte
			line := append(strconv.AppendInt(size[:0], int64(n), 16), "\r\n"...)
			begin := chunkRoom - len(line)
			copy(buf[begin:], line)
			copy(buf[chunkRoom+n:], "\r\n")
			if err := e.write(time.Now(), buf[begin:chunkRoom+n+2]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return e.write(time.Now(), []byte("0\r\n\r\n"))
		}
		if err != nil {
			return err
		}
	}
}
