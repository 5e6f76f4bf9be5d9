"""Small faults put into dfosd_core one at a time, by cosmic-ray: does a test notice?"""
