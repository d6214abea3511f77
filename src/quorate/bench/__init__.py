"""What `quorate bench` is made of: subjects that are measured, load that is put on them, figures.

Servers, load generators and the command itself are processes apart.
"""
