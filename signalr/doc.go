// Package signalr is a server for the ASP.NET Core SignalR protocol.
package signalr
