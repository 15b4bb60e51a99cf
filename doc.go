// Package esh3ar holds the nouns of the Esh3ar messaging platform: messages and their identifiers,
// statuses and the legal moves between them, the business clients that send messages, the status
// events that tell what became of one, and the kinds of error that every layer speaks.
//
// The package imports the standard library only. Everything else in the module points inward to it.
package esh3ar
