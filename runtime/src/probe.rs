//! What this machine's kernel and limits allow, with the remedy for what they do not. Must never change anything.
