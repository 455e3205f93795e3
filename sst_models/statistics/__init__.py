"""What a site can say of its scans in a few hundred numbers, and labelled pairs that are drawn from them."""
