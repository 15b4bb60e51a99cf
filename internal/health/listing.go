package health

// ListingPath is where a server answers with a Listing, to balancers that it trusts.
const ListingPath = "/internal/nodes"

// Listing is the live nodes of a deployment, as one of them tells balancers.
type Listing struct {
	// Cluster is the deployment's name, "" for a node that is alone.
	Cluster string `json:"cluster,omitempty"`
	// Fresh says that the node hears of the others at the moment. If it does not, they are those of before: some may
	// have gone, and some come.
	Fresh bool     `json:"fresh"`
	Nodes []Listed `json:"nodes"`
}

// Listed is a node in a Listing.
type Listed struct {
	Name string `json:"name,omitempty"`
	// URL is the base URL of its HTTP server; "" for that at which it was asked.
	URL string `json:"url,omitempty"`
	// Status and Load are what it told last. Draining: it is about to stop.
	Status   Status `json:"status"`
	Draining bool   `json:"draining,omitempty"`
	Load     Load   `json:"load"`
}
