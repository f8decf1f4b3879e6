"""What samples and topics are held against."""
