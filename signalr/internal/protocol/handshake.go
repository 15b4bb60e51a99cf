package protocol

import (
	"bytes"
	"strconv"
)

// MaxVersion is the newest handshake version. Version 2 adds the messages of
// stateful reconnect.
const MaxVersion = 2

// A HandshakeRequest is the first message of a client, always in JSON.
type HandshakeRequest struct {
	Protocol string
	Version  int64
}

// ParseHandshakeRequest splits a handshake request off data. When data holds
// only a part of it, rest is nil and err is nil too.
func ParseHandshakeRequest(data []byte, max int) (req HandshakeRequest, rest []byte, err error) {
	message, rest, err := JSON{}.Next(data, max)
	if err != nil || rest == nil {
		return req, nil, err
	}
	var hasProtocol, hasVersion bool
	s := jsonScanner{data: message}
	err = s.object(func(key []byte) (err error) {
		switch string(key) {
		case "protocol":
			var name []byte
			name, err = s.str()
			req.Protocol, hasProtocol = string(name), true
		case "version":
			req.Version, err = s.integer()
			hasVersion = true
		default:
			_, err = s.value()
		}
		return err
	})
	if err == nil {
		err = s.end()
	}
	if err == nil && (!hasProtocol || !hasVersion) {
		err = malformed(0, "handshake without protocol or version")
	}
	return req, rest, err
}

// AppendHandshakeRequest appends a handshake request.
func AppendHandshakeRequest(dst []byte, req HandshakeRequest) []byte {
	dst = AppendJSONString(append(dst, `{"protocol":`...), req.Protocol)
	dst = strconv.AppendInt(append(dst, `,"version":`...), req.Version, 10)
	return append(dst, '}', RecordSeparator)
}

// ParseHandshakeResponse splits a handshake response off data and returns the
// error it carries, if any. When data holds only a part of it, rest is nil and
// err is nil too.
func ParseHandshakeResponse(data []byte, max int) (failure string, rest []byte, err error) {
	message, rest, err := JSON{}.Next(data, max)
	if err != nil || rest == nil {
		return "", nil, err
	}
	s := jsonScanner{data: message}
	err = s.object(func(key []byte) (err error) {
		if string(key) != "error" {
			_, err = s.value()
			return err
		}
		text, err := s.strOrNull()
		failure = string(bytes.ToValidUTF8(text, []byte("\uFFFD")))
		return err
	})
	if err == nil {
		err = s.end()
	}
	return failure, rest, err
}

// AppendHandshakeResponse appends a handshake response; failure is empty when
// the handshake succeeded.
func AppendHandshakeResponse(dst []byte, failure string) []byte {
	if failure == "" {
		return append(dst, '{', '}', RecordSeparator)
	}
	dst = AppendJSONString(append(dst, `{"error":`...), failure)
	return append(dst, '}', RecordSeparator)
}
